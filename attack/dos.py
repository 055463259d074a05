exec(open('q.py').read().split("for n,u in")[0])
import time,threading
tokd=as_('dt','A')
def hit():
    r=urllib.request.Request(P+'/api/audit?model=Neg',headers={'Authorization':'Bearer '+tokd})
    t=time.time()
    try: x=urllib.request.urlopen(r,timeout=40); x.read(); s=x.status
    except urllib.error.HTTPError as e: s=(e.code,e.read()[-160:])
    except Exception as e: s=str(e)
    res.append((s,round(time.time()-t,1)))
res=[]
ts=[threading.Thread(target=hit) for _ in range(16)]
[t.start() for t in ts]; time.sleep(1)
t=time.time(); tok=as_('aud','A')
for _ in range(3):
    t=time.time(); print('normal GET',call(P,'GET','/custs/1')[0],round(time.time()-t,2))
[t.join() for t in ts]; print(res)
