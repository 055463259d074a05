exec(open('den.py').read().split("for w in")[0])
url=open('ds.url').read().strip()
def call(m,p,b=None,t=300):
    r=urllib.request.Request(url+'/api'+p,data=json.dumps(b).encode() if b is not None else None,method=m,headers={'Authorization':'Bearer '+tok,'content-type':'application/json'})
    try: x=urllib.request.urlopen(r,timeout=t); return x.status,x.read()
    except urllib.error.HTTPError as e: return e.code,e.read()
import sqlite3
def lock():
    db=sqlite3.connect('d.db',isolation_level=None)
    db.execute('create table if not exists zz(x)') if 0 else None
    db.execute('begin immediate'); time.sleep(45); db.execute('rollback')
th=threading.Thread(target=lock); th.start(); time.sleep(.3)
res={}
def one(n,f):
    t=time.time(); r=f(); res[n]=(r[0],r[1][:100],round(time.time()-t,1))
ts=[threading.Thread(target=one,args=('single denied',lambda: call('DELETE','/papers/p1'))),
threading.Thread(target=one,args=('batch denied',lambda: call('POST','/papers/batch',{'atomic':False,'items':[{'op':'delete','id':'p1'}]*20})))]
[t.start() for t in ts]; [t.join() for t in ts]; print(res); th.join()
