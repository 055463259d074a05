import sys; from lib import *
os.system('rm -f /tmp/atk/t5.db*')
A=Server(7831,'sqlite:/tmp/atk/t5.db')
def rss(): 
    for l in open(f'/proc/{A.p.pid}/status'):
        if l.startswith(('VmHWM','VmRSS')): print('  ',l.strip())
def run(n,body):
    out=[]
    def one():
        t=time.time()
        try: r=req(7831,'POST','/autos',raw=body,headers={'Content-Type':'application/json'},timeout=120); out.append((r[0],round(time.time()-t,2)))
        except Exception as e: out.append(repr(e))
    ts=[threading.Thread(target=one) for _ in range(n)];[t.start() for t in ts];[t.join() for t in ts]
    print(n,out[:4]); rss()
rss()
N=(1<<20)//6-4
b1='{"text":['+','.join(['12345']*N)+']}'; b2='{"text":['+','.join(['1e399']*N)+']}'
print(len(b1))
run(1,b1); run(1,b2); 
if len(sys.argv)>1: run(int(sys.argv[1]),b1); run(int(sys.argv[1]),b2)
A.stop()
